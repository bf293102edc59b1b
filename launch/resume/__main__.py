"""The old spelling of `python -m launch resume`."""

from launch.process.renamed import run_renamed

if __name__ == "__main__":
    run_renamed("resume")
