"""The open Centrifuge client protocol, server side."""
