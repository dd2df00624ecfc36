"""A local page that explains any class of any photograph, by any layer, method and threshold."""
