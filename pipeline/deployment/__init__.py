"""What leaves the project: networks as they are served, their files, and what a card says about them."""
