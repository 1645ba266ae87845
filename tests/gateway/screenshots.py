"""Takes the pictures in docs/images: ``python -m tests.gateway.screenshots``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.gateway.browser import Page, browser
from tests.gateway.servers import find_browser, gateways, until
from tests.servers import RedisServer

IMAGES = Path(__file__).parents[2] / "docs" / "images"
TRAILS = 3.0  # seconds after which no way is drawn any more
MIDWAY = 0.8


def picture(page: Page, name: str, scheme: str, size: tuple[int, int], sender: Page, text: str, to: str) -> None:
    """Take a picture of *page* while a message comes in."""
    driver = page.front()
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    time.sleep(TRAILS)
    sender.say(text, to=to)
    page.front().execute_script("scrollTo(0, 0)")
    time.sleep(MIDWAY)
    driver.save_screenshot(str(IMAGES / f"gateway-{name}.png"))


def main() -> None:
    programs = find_browser()
    if programs is None:
        sys.exit("no chromium with its chromedriver found")
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as name,
        RedisServer(Path(name)) as redis,
        gateways(redis.uri, Path(name)) as (one, two, three),
        browser(programs, Path(name) / "profile") as driver,
    ):
        alice = Page(driver, one, "acme", "alice", "lobby", "cats")
        bob = Page(driver, two, "acme", "bob", "lobby")
        carol = Page(driver, three, "acme", "carol", "lobby", "cats")
        dave = Page(driver, one, "acme", "dave", "lobby")
        until(lambda: {"person:carol", "person:dave"} <= set(alice.targets()), "alice sees all")
        alice.say("Good morning, everyone", to="workspace:")
        bob.say("Morning! Is the build green?", to="room:lobby")
        carol.say("It is. I also fed the cats", to="room:cats")
        dave.say("Lunch at noon?", to="person:alice")
        picture(alice, "light", "light", (1180, 910), alice, "Thank you, Carol", "person:carol")
        picture(carol, "dark", "dark", (1180, 910), alice, "Release at three, please test before", "room:lobby")
        picture(bob, "phone", "light", (390, 1010), carol, "Can you review it?", "person:bob")


if __name__ == "__main__":
    main()
