"""Publishing: one event, a batch, a dry run; and the short way of the commonest request."""
