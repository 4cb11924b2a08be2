"""`python -m agegender.synthetic --out=DIR` writes drawn faces."""

from agegender.synthetic.faces import main

main()
