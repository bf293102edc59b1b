"""Ranks as Ray actors: started, monitored and ended together."""
