"""From a written space to axes and a blueprint."""
