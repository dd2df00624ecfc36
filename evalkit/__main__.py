"""python -m evalkit, as torchrun and srun need it."""

from evalkit.cli.main import main

main()
