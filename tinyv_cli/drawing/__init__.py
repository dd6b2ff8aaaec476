"""Boxes drawn on pictures, pictures shown in terminals."""
