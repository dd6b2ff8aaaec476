"""The arguments and flags of each verb become frozen dataclasses."""
