"""Length-harmonizing fine-tuning: learning from weighed responses of the model itself."""
