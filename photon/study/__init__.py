"""What happened to the tokens: retention over training, overlap between questions, pictures."""
