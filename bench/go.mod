module github.com/flagstead/flagstead/bench

go 1.26.0

require github.com/flagstead/flagstead v0.0.0

require github.com/gorilla/websocket v1.5.3 // indirect

replace github.com/flagstead/flagstead => ../
