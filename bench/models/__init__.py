"""Networks from end to end: accuracy, time, traffic and memory of each, estimated and measured."""
