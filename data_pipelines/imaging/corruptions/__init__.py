"""Corruptions in the style of ImageNet-C: noise, blur, weather and digital errors, made from an image on the fly."""
