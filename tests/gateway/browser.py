"""Pages of the gateway in a headless browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.gateway.servers import Gateway, until

SWITCHES: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",  # several windows, of which one is in front
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
)


class Page:
    """One window with the page of the gateway."""

    def __init__(self, driver: Any, gateway: Gateway, workspace: str, name: str, *rooms: str) -> None:
        if driver.current_url.startswith("http"):
            driver.switch_to.new_window("window")
        self.driver = driver
        self.name = name
        self._window = driver.current_window_handle
        query = urlencode([("workspace", workspace), ("name", name), *(("room", room) for room in rooms)])
        driver.get(f"{gateway.http}?{query}")
        self.on(gateway.name)

    @classmethod
    def signing_in(cls, driver: Any, gateway: Gateway, workspace: str, name: str) -> Page:
        """A page where a person fills in the form, with nothing but the keyboard."""
        page = cls.__new__(cls)
        page.driver, page.name, page._window = driver, name, driver.current_window_handle
        driver.get(gateway.http)
        driver.switch_to.active_element.send_keys(name)
        field = driver.find_element(By.NAME, "workspace")
        field.clear()
        field.send_keys(workspace, Keys.ENTER)
        return page

    def front(self) -> Any:
        self.driver.switch_to.window(self._window)
        return self.driver

    def text(self, selector: str) -> str:
        return str(self.front().find_element(By.CSS_SELECTOR, selector).text)

    def on(self, server: str) -> None:
        """Wait until the page is connected to *server*."""
        until(lambda: self.text("#status").endswith(f"on {server}"), f"{self.name} is on {server}")

    def say(self, text: str, *, to: str) -> None:
        """Send as a person does, with the keyboard; *to* is ``person:bob``, ``room:cats`` or ``workspace:``."""
        driver = self.front()
        until(lambda: to in self.targets(), f"{self.name} can write to {to}")
        driver.execute_script("document.getElementById('to').value = arguments[0]", to)
        driver.find_element(By.ID, "text").send_keys(text, Keys.ENTER)

    def press(self, id: str) -> None:
        """Press a button with the keyboard."""
        self.front().find_element(By.ID, id).send_keys(Keys.ENTER)

    def keys(self, id: str, text: str) -> None:
        """Fill in a field and press Enter."""
        self.front().find_element(By.ID, id).send_keys(text, Keys.ENTER)

    def targets(self) -> list[str]:
        script = "return [...document.querySelectorAll('#to option')].map(e => e.value)"
        found: list[str] = self.front().execute_script(script)
        return found

    @property
    def texts(self) -> list[str]:
        """The messages on the page."""
        script = "return [...document.querySelectorAll('#messages .text')].map(e => e.textContent)"
        found: list[str] = self.front().execute_script(script)
        return found

    @property
    def notes(self) -> list[str]:
        """What the page notes among the messages."""
        script = "return [...document.querySelectorAll('#messages .note')].map(e => e.textContent)"
        found: list[str] = self.front().execute_script(script)
        return found

    def ways(self, text: str) -> str:
        """What the page says of the way of the message *text*."""
        script = """
            const found = [...document.querySelectorAll('#messages li')]
                .filter(item => item.querySelector('.text')?.textContent === arguments[0]);
            return found.map(item => item.querySelector('.path').textContent).join(';')
        """
        return str(self.front().execute_script(script, text))

    def gets(self, *texts: str) -> None:
        """Wait until the page shows exactly *texts*."""
        until(lambda: len(self.texts) >= len(texts), f"{self.name} has {texts}, not {self.texts}")
        assert self.texts == list(texts)


@contextmanager
def browser(programs: tuple[str, str], profile: Path) -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    options = Options()
    options.binary_location = programs[0]
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service(executable_path=programs[1]))
    try:
        yield driver
    finally:
        driver.quit()
