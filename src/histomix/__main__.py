"""``python -m histomix`` is ``histomix``."""

from .cli import main

if __name__ == "__main__":
    main()
