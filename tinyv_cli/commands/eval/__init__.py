"""`tinyv eval`: of a file of questions, or of a benchmark as it was published."""
