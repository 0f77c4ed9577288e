"""`python -m jaxinit` is the `jaxinit` command."""

from jaxinit.cli import command

if __name__ == "__main__":
    command()
