"""Files of a benchmark, in whichever layout, become its records; knows no rule and no model."""
