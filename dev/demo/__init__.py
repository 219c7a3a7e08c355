"""The story that the demonstrations and the end-to-end tests play with real processes: an app with two slots, its
orders, and releases, with the guard and without."""
