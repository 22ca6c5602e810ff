"""What an event is, for every language and every part."""
