//! Whole messages, assembled from frames (RFC 6455 §5.4).
