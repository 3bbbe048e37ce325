"""Control: networks that steer a denoising network by a picture, told from their headers, loaded, and asked at each step."""
