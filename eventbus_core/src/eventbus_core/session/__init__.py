"""Numbered frame streams between two nodes, with retransmission and credit; no I/O."""
