"""What a service keeps in the database: who may submit, and jobs until they end."""
