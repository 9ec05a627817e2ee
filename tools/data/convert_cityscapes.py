from paddleseg_psp.commands.convert_cityscapes import main

if __name__ == "__main__":
    main()
