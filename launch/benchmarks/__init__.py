"""Measurements that anyone can repeat: each script prints its figures from one run."""
