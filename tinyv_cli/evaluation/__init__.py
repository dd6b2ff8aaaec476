"""How good a variant is: questions with known answers become figures with intervals."""
