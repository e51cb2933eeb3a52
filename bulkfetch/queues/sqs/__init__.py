"""Amazon SQS as a queue."""
