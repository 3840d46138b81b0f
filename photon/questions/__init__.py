"""Questions about volumes: records on disk, prompts, and questions made from masks."""
