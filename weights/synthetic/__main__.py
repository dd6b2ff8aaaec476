"""`python -m weights.synthetic DIR` writes sources of random numbers."""

from weights.synthetic.sources import main

main()
