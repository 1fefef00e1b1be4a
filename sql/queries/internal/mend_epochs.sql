-- Behind which sequence each epoch of stream $1 began that an operator opened.
SELECT partition, epoch, seq FROM coord.epoch WHERE stream = $1
