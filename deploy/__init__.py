"""What Pilotlight is deployed and watched with."""
