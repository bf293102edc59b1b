"""Another build of this project takes turns with this one: it is started beside it, and works when it is told to."""
