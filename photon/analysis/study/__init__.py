"""Tables and figures of a study: many run directories, compared question by question."""
