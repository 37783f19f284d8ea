"""Methods side by side on the same supports: `config` says which, `cell` fits and measures one,
`run` does all of them on Ray, `summary` compares them in pairs."""
