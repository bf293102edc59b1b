"""Lockstep's methods beside those of other libraries, in one run on the same prompts and seeds.

    python -m launch.benchmarks.peers configs/tiny-wan.yaml configs/tiny_wan/held_out_prompts.txt --output FOLDER

Needs the extra ``bench``; nothing else in Lockstep imports what it brings.
"""
