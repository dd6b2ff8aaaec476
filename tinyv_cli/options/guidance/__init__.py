"""What helps at the command line: help pages, complaints, completion."""
