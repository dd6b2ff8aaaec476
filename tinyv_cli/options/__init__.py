"""What can be typed after each verb becomes frozen dataclasses; knows words, no verb's work."""
