"""The lines of a check, a file for each group of them: functions that take a :class:`launch.check.site.Site`."""
