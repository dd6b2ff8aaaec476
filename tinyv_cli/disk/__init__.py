"""Files written whole or not at all, read whatever they are, locks, lines of JSON, checked JSON."""
