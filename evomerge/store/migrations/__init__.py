"""How the tables came to be, a step at a time; ``store.databases.versions`` runs it."""
