"""The verbs about variants on this computer: listed, shown, removed."""
