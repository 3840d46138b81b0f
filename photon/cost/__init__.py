"""What training and answering cost: `plan` computes it before renting, `step` measures it."""
