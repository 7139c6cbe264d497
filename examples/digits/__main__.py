"""`python -m examples.digits` runs the demo."""

from examples.digits.demo import main

if __name__ == "__main__":
    main()
