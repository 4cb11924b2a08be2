"""`python -m agegender.synthetic --out=DIR` writes synthetic faces."""

from agegender.synthetic.faces import main

main()
