"""Everything that knows about ranks. The only package that imports xfuser."""
