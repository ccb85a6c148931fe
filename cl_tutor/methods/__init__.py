"""The methods, one file a family. Each is a `Method`: a term for the loss, an edit of the gradient, or an answer."""
