"""python -m evalkit, as torchrun and srun need it."""

from evalkit.cli import main

main()
