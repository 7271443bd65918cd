"""What is kept secret and how it is referred to: sealing, opening, `${NAME}` and `{{NAME}}`."""
