"""Files written whole or not at all, lines of JSON, checked JSON."""
