"""`python -m launch ...` is `lockstep ...`."""

from launch.cli import main

if __name__ == "__main__":
    main()
