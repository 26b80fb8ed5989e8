"""Pictures of a study, for pages and files, without any library."""
